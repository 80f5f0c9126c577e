"""What several sources need and none owns: listings, wake events, types of files."""
