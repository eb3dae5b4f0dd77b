"""People's choices as a table: its format, reading, checking, writing, and a report of what was used."""
