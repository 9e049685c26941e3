// Kernels as Python functions: the code between a call and a kernel, the same for every kernel.
//
// Compiled with -DPYTHON and Python's headers, a file of kernels is also a Python module. A call then costs a third of a
// call by ctypes, which matters after a matrix product, since that evicts the caches. Without the headers the file has
// only the kernels, and ctypes calls them.

#pragma once

#ifndef PYTHON

#define FUNCTIONS(...)

#else

#include <Python.h>

#include <new>
#include <tuple>
#include <type_traits>
#include <utility>

namespace python {

template <typename Value>
inline Value converted(PyObject* value) {
    if constexpr (std::is_pointer<Value>::value) {
        return static_cast<Value>(PyLong_AsVoidPtr(value));
    } else if constexpr (std::is_floating_point<Value>::value) {
        return Value(PyFloat_AsDouble(value));
    } else {
        return Value(PyLong_AsLongLong(value));
    }
}

template <auto kernel>
struct Function;

template <typename Result, typename... Values, Result (*kernel)(Values...)>
struct Function<kernel> {
    // Convert the arguments, release the GIL, and run. Returns the kernel's result, or None.
    static PyObject* call(PyObject*, PyObject* const* given, Py_ssize_t count) {
        if (count != sizeof...(Values)) {
            return PyErr_Format(PyExc_TypeError, "a kernel takes %zu values, not %zd", sizeof...(Values), count);
        }
        return run(given, std::index_sequence_for<Values...>());
    }

    template <size_t... place>
    static PyObject* run(PyObject* const* given, std::index_sequence<place...>) {
        const std::tuple<Values...> values{converted<Values>(given[place])...};
        if (PyErr_Occurred()) return nullptr;
        bool has_memory = true;
        int answer = 0;
        Py_BEGIN_ALLOW_THREADS;
        try {
            if constexpr (std::is_void<Result>::value) {
                kernel(std::get<place>(values)...);
            } else {
                answer = kernel(std::get<place>(values)...);
            }
        } catch (const std::bad_alloc&) {
            has_memory = false;
        }
        Py_END_ALLOW_THREADS;
        if (!has_memory) return PyErr_NoMemory();
        if constexpr (std::is_void<Result>::value) Py_RETURN_NONE;
        return PyLong_FromLong(answer);
    }
};

static PyModuleDef_Slot slots[] = {
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, nullptr}};

}  // namespace python

#define FUNCTION(name) { #name, (PyCFunction)(void (*)())python::Function<kernels::name>::call, METH_FASTCALL, nullptr}

#define FUNCTIONS(...)                                                                                                 \
    static PyMethodDef functions[] = {__VA_ARGS__, {nullptr, nullptr, 0, nullptr}};                                    \
    static PyModuleDef module = {                                                                                      \
        PyModuleDef_HEAD_INIT, "kernels", nullptr, 0, functions, python::slots, nullptr, nullptr, nullptr};            \
    PyMODINIT_FUNC PyInit_kernels() { return PyModuleDef_Init(&module); }

#endif
