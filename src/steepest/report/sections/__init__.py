"""One file per kind of result: from its JSON to what its template shows."""
