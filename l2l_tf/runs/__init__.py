"""The commands themselves, as functions of their settings."""
