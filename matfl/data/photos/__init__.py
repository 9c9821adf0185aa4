"""Photographs with dense labels from public repositories, of which nothing is kept here but ids and splits.

git.py            blob and tree ids, and the lists that name a damaged file (*.blobs)
repositories.py   which repositories, at which commits, and their verified extraction
nyuv2.py          NYUv2's two forms, crop and official split; labelled_mat.py: the authors' own file
people.py         Clothing Co-Parsing's labels merged to classes and parts
derive.py         boundaries of class maps, normals of depth maps
readers.py        readers 'nyuv2' and 'people'; check.py: every photograph opened and compared with what was published
"""
