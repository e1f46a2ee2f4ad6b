"""Stored runs for other tools, one module for each tool."""
