"""How good clips are, as numbers and as pictures."""
