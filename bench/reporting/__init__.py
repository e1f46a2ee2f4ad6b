"""Records in, pages out. Imports neither torch nor ray."""
