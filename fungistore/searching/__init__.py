"""Search: the nearest images of a store to an image file or to one of its samples."""

from fungistore.searching.page import render_page, write_page
from fungistore.searching.result import Answer, Neighbour, QueryFailure, SearchResult
from fungistore.searching.search import search

__all__ = [
    "Answer",
    "Neighbour",
    "QueryFailure",
    "SearchResult",
    "render_page",
    "search",
    "write_page",
]
