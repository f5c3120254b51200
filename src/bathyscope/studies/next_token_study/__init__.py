"""The next-token study: how early, and by which method, representations tell what comes next."""
