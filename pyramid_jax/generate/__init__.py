"""From prompts or frames to videos."""
