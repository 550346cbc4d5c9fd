"""How Numba's compiler is used, so that each kernel is optimised and made machine code once.

Numba does that for each function by itself, and again for each function that calls it: a parallel kernel compiles the
body of its loop, a wrapper around that, one around the wrapper, and itself around all three; a helper is compiled on
its own and then once more in every kernel.  So the first step of a LeNet-like network took 30 s (2-core Intel Xeon,
Emerald Rapids), and takes half of that so:

    A part is what compiled code calls.  It stays as Numba wrote it down, in LLVM's language, without optimisation.
    A whole is what Python calls.  It gathers its parts, and LLVM optimises all of that at once.

    Kernel           the dispatcher that compile.kernel makes of a function
    WholePipeline    what numba's CFunc takes as its pipeline_class for a function that kernels call by its name
"""

import copy
import gc
import operator
from functools import lru_cache
from types import BuiltinFunctionType

from llvmlite.binding import create_new_function_pass_manager
from numba import types
from numba.core import typing
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, Flags
from numba.core.environment import lookup_environment
from numba.core.registry import CPUDispatcher

# --- libraries, as Numba calls LLVM's code of one function ------------------------------------------------------


class Part(JITCodeLibrary):
    """What compiled code calls: its variables become registers, and no more is done to it."""

    _gathered = False

    def _optimize_functions(self, module):
        module.data_layout = self._codegen._data_layout
        passes, builder = create_new_function_pass_manager(), self._codegen._pass_builder()
        passes.add_sroa_pass()
        passes.add_simplify_cfg_pass()
        for function in module.functions:
            passes.run(function, builder)

    def finalize(self):
        self._raise_if_finalized()
        self._finalized = True

    def _get_module_for_linking(self):
        """For libraries that are not made here: Numba's own link what they call, and not what that calls."""
        self._gather()
        return self._own_module()

    def _own_module(self):
        self._ensure_finalized()
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage.name == "external":
                function.linkage = "linkonce_odr"  # one of several copies, and dropped where nothing calls it
        return self._final_module

    def _gather(self):
        """Link all that this library calls, and what that calls.

        A function is linked only where something already there calls it: so callers come first.
        """
        if self._gathered:
            return
        self._gathered = True
        callees_first = {}

        def visit(library):
            if library not in callees_first:
                if isinstance(library, Part) and not library._gathered:
                    for each in library._linking_libraries:
                        visit(each)
                callees_first[library] = None

        for each in self._linking_libraries:
            visit(each)
        for library in reversed(callees_first):
            self._reload_init.update(library._reload_init)
            module = library._own_module() if isinstance(library, Part) else library._get_module_for_linking()
            self._final_module.link_in(module, preserve=True)


class Whole(Part):
    """What Python calls: all of it is optimised at once, and made machine code."""

    def finalize(self):
        self._raise_if_finalized()
        self._codegen._check_llvm_bugs()
        self._gather()
        self._optimize_final_module()
        self._final_module.verify()
        self._finalize_final_module()
        for variable in self._final_module.global_variables:  # through which errors are raised, each function's own
            environment = lookup_environment(variable.name)
            if environment is not None:
                self._codegen.set_env(variable.name, environment)

    def _get_module_for_linking(self):
        return super(Part, self)._get_module_for_linking()


# --- pipelines ----------------------------------------------------------------------------------------------------


@lru_cache(None)
def _codegen_of_parts(codegen):
    """Numba's code generator, but for the libraries that it makes."""
    made = copy.copy(codegen)
    made.__class__ = type("CodegenOfParts", (type(codegen),), {"_library_class": Part})
    return made


_subroutines = {}  # what Numba has compiled for its own use within kernels


# Steps of Numba's that change nothing in a kernel: what merges loops and expressions of arrays, and what looks for
# things that aren't there.
NOT_NEEDED = {
    "ParforFusionPass",
    "WithLifting",
    "MakeFunctionToJitFunction",
    "InlineInlinables",
    "InlineClosureLikes",
    "InlineOverloads",
    "NopythonRewrites",
    "FindLiterallyCalls",
    "LiteralUnroll",
    "LiteralPropagationSubPipelinePass",
}


class _Operator(types.Function):
    """An operator that remembers what it makes of numbers of which types.

    At every a + b in a kernel Numba asks each function that adds something, lists, strings and dates too, whether it
    is the one for a and b.
    """

    def __init__(self, function):
        super().__init__(function.templates)
        self._signatures = {}

    def get_call_type(self, context, arguments, named):
        if named or not all(isinstance(each, types.Number) for each in arguments):
            return super().get_call_type(context, arguments, named)
        arguments = tuple(map(types.unliteral, arguments))
        if arguments not in self._signatures:
            self._signatures[arguments] = super().get_call_type(context, arguments, named)
        return self._signatures[arguments]


_operator = lru_cache(None)(_Operator)

# All but the power, which is another function where the exponent is a constant.
OPERATORS = {
    getattr(operator, name)
    for name in operator.__all__
    if "pow" not in name and isinstance(getattr(operator, name), BuiltinFunctionType)
}


class _Typing(typing.Context):
    """Numba's rules for types, but for operators that remember."""

    def resolve_value_type(self, value):
        found = super().resolve_value_type(value)
        return _operator(found) if isinstance(found, types.Function) and found.typing_key in OPERATORS else found


@lru_cache(None)
def _typing_of(context):
    made = copy.copy(context)
    made.__class__ = _Typing
    return made


class _Flags(Flags):
    """Flags that are the same where a function of Numba's that is called, say np.empty, inherits the same of them.

    It is then compiled once for all, and not for each way in which tinynet compiles what calls it.
    """

    def _inherited(self):
        return self.nrt, self.forceinline, self.error_model, str(self.fastmath)

    def __eq__(self, other):
        return isinstance(other, _Flags) and self._inherited() == other._inherited()

    def __hash__(self):
        return hash(self._inherited())


class PartPipeline(Compiler):
    """What Numba does with a function, up to LLVM's language."""

    whole = None

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.state.flags = _Flags(self.state.flags)
        self.state.typingctx = _typing_of(self.state.typingctx)
        numba_s = self.state.targetctx
        self.state.targetctx = numba_s.subtarget(
            typing_context=self.state.typingctx,
            _internal_codegen=_codegen_of_parts(numba_s.codegen()),
            get_executable=self._get_executable,
            create_cpython_wrapper=self._create_cpython_wrapper,
            load_additional_registries=lambda: None,  # Numba's own context, of which this is a copy, just did
        )
        self.state.targetctx.cached_internal_func = _subroutines

    def _get_executable(self, library, fndesc, environment):
        """What stands for the function in Numba's tables; for a whole, what Python calls."""
        if library is not self.whole:
            return object()
        return type(self.state.targetctx).get_executable(self.state.targetctx, library, fndesc, environment)

    def _create_cpython_wrapper(self, library, *arguments, **named):
        """What takes Python's objects apart: the bodies of parallel loops don't need it."""
        if library is self.whole:
            context = self.state.targetctx
            type(context).create_cpython_wrapper(context, library, *arguments, **named)

    def _compile_core(self):
        """Without Python's garbage collector, which would look through all that a compilation makes, often."""
        enabled = gc.isenabled()
        gc.disable()
        try:
            return super()._compile_core()
        finally:
            if enabled:
                gc.enable()

    def define_pipelines(self):
        pipelines = super().define_pipelines()
        for each in pipelines:
            each.passes = [step for step in each.passes if step[0].__name__ not in NOT_NEEDED]
        return pipelines


class WholePipeline(PartPipeline):
    """All of it."""

    def define_pipelines(self):
        self.whole = self.state.library = Whole(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        self.whole.enable_object_caching()
        return super().define_pipelines()


# --- dispatchers --------------------------------------------------------------------------------------------------


class _Parts(CPUDispatcher):
    """The parts that are made of one function, for some types of arguments each."""

    def add_overload(self, result):
        self.overloads[tuple(result.signature.args)] = result


class Kernel(CPUDispatcher):
    """What Python calls; and where another kernel calls it, its part.  A constant there makes no part of its own."""

    def __init__(self, function, locals=None, targetoptions=None, pipeline_class=WholePipeline):
        options = {"nopython": True, "no_cfunc_wrapper": True, **targetoptions}
        super().__init__(function, {}, options, pipeline_class)
        self._part = _Parts(function, {}, {**options, "no_cpython_wrapper": True}, PartPipeline)

    def get_call_template(self, arguments, named):
        return self._part.get_call_template([types.unliteral(each) for each in arguments], named)

    def get_overload(self, sig):
        return self._part.get_overload(sig)
