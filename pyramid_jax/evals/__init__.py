"""How good what was generated is."""
