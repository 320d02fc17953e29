"""A model as files, in a folder or in a repository of the Hub: which they are, and whether it can be used."""
