"""What came out: checked inputs (artifacts), tables, figures and one offline page."""
