"""The agreement study: the features that make a verb agree, found on some nouns and checked on others."""
