"""Embedded Postgres and S3, and the processes of `moltpipe up`."""
