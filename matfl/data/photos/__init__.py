"""Photographs with dense labels from public repositories, of which nothing is kept here but ids and splits.

git.py            blob and tree ids, and the lists that name a damaged file (*.blobs)
repositories.py   which repositories, at which commits, and their verified extraction
"""
