"""The C interface of librknnrt as data: one layout for every release since 1.6.0, the same on x86-64 and aarch64."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, c_char, c_float, c_int, c_int8, c_uint8, c_uint32, c_uint64, c_void_p
from typing import Any, TypeAlias

# The first release with this layout; a later major one may have another.
FIRST, BEFORE = (1, 6), (3, 0)

QUERY_IN_OUT_NUM, QUERY_INPUT_ATTR, QUERY_OUTPUT_ATTR, QUERY_SDK_VERSION = 0, 1, 2, 5
UINT8 = 3
NCHW, NHWC = 0, 1


class InputOutputNumber(ctypes.Structure):
    _fields_ = (("n_input", c_uint32), ("n_output", c_uint32))


class TensorAttribute(ctypes.Structure):
    _fields_ = (
        ("index", c_uint32),
        ("n_dims", c_uint32),
        ("dims", c_uint32 * 16),
        ("name", c_char * 256),
        ("n_elems", c_uint32),
        ("size", c_uint32),
        ("fmt", c_int),
        ("type", c_int),
        ("qnt_type", c_int),
        ("fl", c_int8),
        ("zp", ctypes.c_int32),
        ("scale", c_float),
        ("w_stride", c_uint32),
        ("size_with_stride", c_uint32),
        ("pass_through", c_uint8),
        ("h_stride", c_uint32),
    )


class SdkVersion(ctypes.Structure):
    _fields_ = (("api_version", c_char * 256), ("drv_version", c_char * 256))


class InputTensor(ctypes.Structure):
    _fields_ = (
        ("index", c_uint32),
        ("buf", c_void_p),
        ("size", c_uint32),
        ("pass_through", c_uint8),
        ("type", c_int),
        ("fmt", c_int),
    )


class OutputTensor(ctypes.Structure):
    _fields_ = (
        ("want_float", c_uint8),
        ("is_prealloc", c_uint8),
        ("index", c_uint32),
        ("buf", c_void_p),
        ("size", c_uint32),
    )


Signature: TypeAlias = tuple[Any, tuple[Any, ...]]
# C name: result and arguments. Those that return a status return 0 or a row of ERRORS.
FUNCTIONS: Mapping[str, Signature] = {
    "rknn_init": (c_int, (POINTER(c_uint64), c_void_p, c_uint32, c_uint32, c_void_p)),
    "rknn_destroy": (c_int, (c_uint64,)),
    "rknn_query": (c_int, (c_uint64, c_int, c_void_p, c_uint32)),
    "rknn_set_core_mask": (c_int, (c_uint64, c_int)),
    "rknn_inputs_set": (c_int, (c_uint64, c_uint32, POINTER(InputTensor))),
    "rknn_run": (c_int, (c_uint64, c_void_p)),
    "rknn_outputs_get": (c_int, (c_uint64, c_uint32, POINTER(OutputTensor), c_void_p)),
    "rknn_outputs_release": (c_int, (c_uint64, c_uint32, POINTER(OutputTensor))),
}
