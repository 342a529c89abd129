"""Object stores and web servers: their objects, by URL. What a disk is to `open`, a bucket is here.

obstore does the talking, its retries and their back-off; it is imported with the first bucket only.
"""
