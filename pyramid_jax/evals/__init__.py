"""What generated clips are worth."""
