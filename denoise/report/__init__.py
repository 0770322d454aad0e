"""Pages that open offline: one HTML file each, which loads nothing and sends nothing."""
