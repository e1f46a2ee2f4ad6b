"""Ray, kept thin. The only room that imports ray."""
