"""How good a clip is: against its original, its caption, a benchmark."""
