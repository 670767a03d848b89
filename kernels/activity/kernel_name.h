/* Names of GPU kernels for people. */
#ifndef KERNELS_ACTIVITY_KERNEL_NAME_H
#define KERNELS_ACTIVITY_KERNEL_NAME_H

#include <stddef.h>

/* "void scale<float>(float *)" of "_Z5scaleIfEvPT_", by the C++ library of this machine; the name
 * as it is where that is missing or has nothing to say. malloc'd; NULL: no memory. */
char *kernel_demangle(const char *mangled);
/* "scale" of it: without namespaces, template arguments, parameters and result. At most size - 1
 * letters. Returns out. */
char *kernel_short_name(const char *demangled, char *out, size_t size);

#endif
