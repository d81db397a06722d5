"""Lower bounds: pairs of points of a domain whose secant slope, evaluated with outward rounding, is proven."""
