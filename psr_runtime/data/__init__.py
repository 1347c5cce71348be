"""Data at the door: whatever form people have it in, it is read into one kind of record a purpose.

`files.py` reads rows out of files, `layout.py` says which files of a folder are read, `schemas` recognises a row by its
fields and reads it, `reading.py` is the door that stages use, `tokenised.py` turns preferences that are text into pairs
of token ids, `importing.py` converts for `psr data import`. What PSR's own records hold stands in `records.py`.
"""
