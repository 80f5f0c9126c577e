"""Between stores: how they differ, and keeping one like another."""
