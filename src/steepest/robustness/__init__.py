"""What a Lipschitz constant proves about single answers: radii within which no perturbation changes them."""
