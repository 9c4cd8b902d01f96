"""Videos of talking faces in, sharded crops and MFCC windows out."""

__version__ = "0.1.0"
