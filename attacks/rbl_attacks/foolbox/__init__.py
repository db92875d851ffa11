"""The attacks of Foolbox, through an adapter."""
