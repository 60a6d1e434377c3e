"""What the program takes from files and servers that anybody may have made: all limits, in one place.

A small file can ask for hours of work or for gigabytes of memory. What exceeds a limit is an error that says so.
"""

from __future__ import annotations

# Any archive
MAX_MEMBER_BYTES = 256 << 20
"""One file in an archive or a folder; the largest file of CIFAR-100 has 155 MB."""
MAX_NAME_BYTES = 4096
"""One path, as on Linux."""
MAX_NAMES_BYTES = 256 << 20
"""All paths of a data set together; ImageNet's take 60 MB."""
MAX_EXTENDED_HEADER_BYTES = 64 << 10
"""An extended header of a tar archive, which holds long names and attributes."""
MAX_EXTENDED_RECORDS = 100
"""Records of one extended header."""
MAX_RATIO = 100
"""Unpacked bytes per packed byte. gzip reaches 1,000 for zeros, and 2 to 20 for images."""
FREE_UNPACKED_BYTES = 64 << 20
"""So many bytes are unpacked whatever the ratio is."""

MAX_LABELS_BYTES = 64 << 20
"""A CSV file of labels; that of Kaggle's CIFAR-10 has 1 MB."""
MAX_ZIP_DIRECTORY_BYTES = 256 << 20
"""The directory of a zip archive, which is read into memory; that of ImageNet's images takes 120 MB."""
MAX_ARRAY_HEADER_CHARACTERS = 10_000
"""The head of an array in a .npz file: its type and shape, as Python text."""

# Images
MAX_PIXELS = 250_000_000
"""One image; telephones take photographs of 200 million."""
MAX_SCANNED_PIXELS = 1_000_000_000
"""One image's pixels times its scans. Each scan of a progressive JPEG changes all of the image; most files have 10."""
MAX_SIDE = 16_384
"""Side of a store's images, in pixels."""

# Small files of text
MAX_STORE_HEADER_BYTES = 16 << 20
"""The header of a store: names of classes and tensors."""
MAX_CLASS_NAME = 255
"""Characters of a class name."""
MAX_MARK_BYTES = 64 << 10
"""The file that describes a partial download."""
MAX_CONFIG_BYTES = 1 << 20
"""config.yaml of a run, which names its classes: 10,000 names of 75 characters take 0.8 MB."""
MAX_YAML_VALUES = 100_000
"""Values in a YAML file, each reference to another part of it counted with all that it refers to."""
MAX_RUN_FILE_BYTES = 256 << 20
"""A file of a run beside its checkpoints; a row for each of 10 million steps takes as much."""
MAX_CACHE_BYTES = 4 << 20
"""The file of remembered trials."""

# Augmentation policies
MAX_POLICY_BYTES = 128 << 10
MAX_POLICY_VALUES = 5000
"""Values in a policy, each reference to another part of the file counted with all that it refers to."""
MAX_POLICY_DEPTH = 16
"""Transforms and lists inside each other."""
MAX_POLICY_NUMBER = 1024
"""A number in a policy. Most are sizes or counts, and cost time and memory in proportion to their square."""
MAX_POLICY_SCALE = 4
"""A factor of the image's size."""
MAX_POLICY_COUNT = 64
"""A number of rows, columns, or repetitions inside one transform."""
MAX_POLICY_KELVIN = 40_000
"""A colour temperature, which costs nothing."""
MIN_POLICY_STEP = 0.001
"""The step from one factor to the next, inside one transform."""
MAX_POLICY_PIXELS = 16_000_000
"""An image after any of a policy's transforms."""
MAX_TRIAL_SECONDS = 20
"""The trial of a policy on 16 images."""

# Downloads
MAX_DOWNLOAD_BYTES = 1 << 40
"""A file whose size the server announces; there must be space for it, too."""
MAX_UNANNOUNCED_BYTES = 2 << 30
"""A file whose size the server doesn't announce."""
MAX_HEADER_TEXT = 200
"""Characters of a server's header that are kept or shown."""
MAX_INTERRUPTIONS = 20
"""Broken connections in a row that sent little."""
