"""The Primal-Dual Proximal Gradient Descent attack."""
