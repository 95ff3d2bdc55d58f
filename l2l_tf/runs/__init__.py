"""What the commands do, given their settings."""
