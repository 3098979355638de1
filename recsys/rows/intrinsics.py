"""Instructions that numba has no name for: prefetch, count zeros, see a float32 as its bits, draw random bits."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_BYTE_POINTER = ir.IntType(8).as_pointer()
_INT32 = ir.IntType(32)
_instruction: Any = intrinsic  # a type checker would take the typing context for an argument of the caller
_READ, _KEEP, _DATA = 0, 3, 1  # arguments of llvm.prefetch: for reading, in all caches, data not instructions


@_instruction
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of ``array[index]`` (one-dimensional); any index is harmless."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), _BYTE_POINTER)
        kind = ir.FunctionType(ir.VoidType(), [_BYTE_POINTER, _INT32, _INT32, _INT32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [address, _INT32(_READ), _INT32(_KEEP), _INT32(_DATA)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@_instruction
def trailing_zeros(typing_context: Any, word: Any) -> Any:
    """Zero bits below the lowest set bit of a uint64 that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@_instruction
def bits_of(typing_context: Any, number: Any) -> Any:
    """The bits of a float32, as a uint32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], _INT32)

    return types.uint32(types.float32), generate


@_instruction
def float_of(typing_context: Any, bits: Any) -> Any:
    """The float32 that a uint32 is the bits of."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@_instruction
def draw(typing_context: Any, low: Any, high: Any, column: Any) -> Any:
    """32 random bits of a column, from 64 of its row: a multiply-xorshift mix, constants of Wellons' lowbias32.

    numba would widen its uint32 products to 64 bits, of which half as many fit a SIMD register: 35 ns a row of 16
    in place of 19.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        low, high, column = arguments
        golden, multiply_1, multiply_2 = (
            ir.Constant(_INT32, number) for number in (0x9E3779B9, 0x7FEB352D, 0x846CA68B)
        )
        half, odd = ir.Constant(_INT32, 16), ir.Constant(_INT32, 15)
        bits = builder.add(low, builder.mul(column, golden))
        bits = builder.mul(builder.xor(bits, builder.lshr(bits, half)), multiply_1)
        bits = builder.mul(builder.add(builder.xor(bits, builder.lshr(bits, odd)), high), multiply_2)
        return builder.xor(bits, builder.lshr(bits, half))

    return types.uint32(types.uint32, types.uint32, types.uint32), generate
