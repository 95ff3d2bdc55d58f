"""Command line scripts; flags exist only here."""
