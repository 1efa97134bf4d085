"""The annotations of one split, in each format: a class for each row of ``resnext.sources.BOX_FORMATS``."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self, cast

from resnext.detection.data import find_annotations
from resnext.detection.data.annotations import RawAnnotations, drop_group_categories
from resnext.detection.data.coco import parse_coco
from resnext.detection.data.find_images import find_image_folder, locate_images
from resnext.detection.data.voc import convert_voc, find_first_pixel, list_class_names, read_voc
from resnext.detection.settings import DetectDataSettings
from resnext.errors import RequestError, did_you_mean
from resnext.sources import BOX_FORMATS, import_function


class AnnotatedSplit(ABC):
    """The annotations of a split and its image folder. Making one raises RequestError for missing or invalid files."""

    location: Path  # the file, list or folder that defines the split
    images: Path

    def __init__(self, settings: DetectDataSettings, split: str) -> None:
        self.exif = settings.exif
        self.read(find_data_root(settings), settings, split)

    @staticmethod
    @abstractmethod
    def search(root: Path, settings: DetectDataSettings, split: str) -> Path | None:
        """Find the file, list or folder that defines the split; None where there is none."""

    @abstractmethod
    def read(self, root: Path, settings: DetectDataSettings, split: str) -> None:
        """Read the annotations; set ``location`` and ``images``."""

    @property
    @abstractmethod
    def needs_other_split(self) -> bool:
        """Whether the split's classes depend on the other split too."""

    @abstractmethod
    def parse(self, both: Sequence[Self]) -> RawAnnotations:
        """Return the annotations with the classes of ``both`` splits. Raises RequestError."""

    def build_annotations(self, both: Sequence[Self]) -> RawAnnotations:
        """Build the annotations with the classes of ``both`` splits, and locate the images. Raises RequestError."""
        return locate_images(self.parse(both), self.images, exif=self.exif)


class CocoSplit(AnnotatedSplit):
    """One COCO JSON file."""

    search = staticmethod(find_annotations.search_coco_file)

    def read(self, root: Path, settings: DetectDataSettings, split: str) -> None:
        """Read the file."""
        self.location = find_annotations.find_coco_file(root, settings, split)
        self.coco = parse_coco(self.location)
        folders = find_annotations.list_image_folders(root, settings, split, self.location)
        self.images = find_image_folder(folders, self.coco.files)

    @property
    def needs_other_split(self) -> bool:
        """Whether a category may be a group: it is, unless a split has boxes of it."""
        return bool(self.coco.group_ids)

    def parse(self, both: Sequence[Self]) -> RawAnnotations:
        """Return the annotations without the categories that are groups."""
        return drop_group_categories(self.coco, [found.coco for found in both])


class VocSplit(AnnotatedSplit):
    """A list or folder of Pascal VOC's XML files, which have no list of classes."""

    search = staticmethod(find_annotations.search_voc_split)
    needs_other_split = True

    def read(self, root: Path, settings: DetectDataSettings, split: str) -> None:
        """Read the XML files."""
        self.location, above, xml, self.images = find_annotations.find_voc_files(root, settings, split)
        self.voc = read_voc(xml, self.images, self.location, above)

    def parse(self, both: Sequence[Self]) -> RawAnnotations:
        """Return the annotations with the names of both splits as classes."""
        splits = [found.voc for found in both]
        return convert_voc(self.voc, list_class_names(splits), self.location.name, find_first_pixel(splits))


def get_reader(settings: DetectDataSettings) -> type[AnnotatedSplit]:
    """Return the class that reads the format of ``data.source``. Raises RequestError."""
    if settings.source not in BOX_FORMATS:
        raise RequestError(f"unknown data.source {settings.source!r}{did_you_mean(settings.source, BOX_FORMATS)}")
    return cast(type[AnnotatedSplit], import_function(BOX_FORMATS[settings.source].reader))


def has_annotations(settings: DetectDataSettings, split: str) -> bool:
    """Whether a split has annotations, where the settings say or in a usual place."""
    return get_reader(settings).search(find_data_root(settings), settings, split) is not None


def find_data_root(settings: DetectDataSettings) -> Path:
    """Return the folder ``settings.path``. Raises RequestError unless it exists."""
    root = Path(settings.path).expanduser()
    if not root.is_dir():
        raise RequestError(f"data.path {root} {'is a file' if root.exists() else 'does not exist'}; expected a folder")
    return root
