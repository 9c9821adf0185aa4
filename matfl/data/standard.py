"""The package's own readers, registered."""

from matfl.data.own import OwnReader
from matfl.data.photos.readers import Nyuv2Reader, PeopleReader
from matfl.data.readers import READERS
from matfl.data.real import LayoutReader
from matfl.data.rendered import RenderedReader

__all__: list[str] = []

with READERS.filling():
    READERS.register(RenderedReader())
    READERS.register(LayoutReader("pascal"))
    READERS.register(LayoutReader("nyud"))
    READERS.register(Nyuv2Reader())
    READERS.register(PeopleReader())
    READERS.register(OwnReader())
