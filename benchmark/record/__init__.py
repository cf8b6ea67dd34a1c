"""What one run leaves behind: its record, its folder, where its numbers come from. No torch."""
