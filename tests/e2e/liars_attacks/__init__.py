"""Tables of attacks for the suite of liars."""
