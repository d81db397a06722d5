"""One self-contained HTML page for results, and the fragments notebooks show."""
