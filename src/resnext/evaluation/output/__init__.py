"""What an evaluation writes and prints: tables, plots, the report, the console."""
