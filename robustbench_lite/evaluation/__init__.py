"""One question asked of a model: which samples stay right under these attacks?"""
