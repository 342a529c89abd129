"""fungi: frozen encoders and a pile of images, texts or sounds, turned into features worth keeping.

import fungistore as fungi

options = fungi.ExtractOptions(model="vit_small_patch14_dinov2.lvd142m", image_size=224)
fungi.extract("images/", "pets.fungi", options)
store = fungi.Store.open("pets.fungi")
"""

import os
import sys
from types import ModuleType

import lazy_loader

# Intel's MKL reads this when it first multiplies: the order of its sums then depends on the shapes
# alone, not on where in memory a matrix lies, at 3 % of the speed
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

# `__init__.pyi` states each public name once; it is imported on first use, so `import fungistore`
# alone never imports torch
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


class _Described(ModuleType):
    @property
    def __doc__(self) -> str:  # type: ignore[override]
        """What is written above, then each public name with a sentence: for `help(fungistore)`."""
        from fungistore.overview import overview

        return f"{self.__dict__['__doc__']}\n{overview()}"


sys.modules[__name__].__class__ = _Described
