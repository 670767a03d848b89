/* The rates of this machine's kernels, measured once (about a second) and kept in
 * $XDG_CACHE_HOME/chunkbench/rates-HASH.json for a day. The hash is of what can change them: the
 * processor and the cores in use, or the GPU, its driver and its power cap; this binary; and the
 * options that choose kernels. A cache that is
 * damaged or of something else is measured again. Rates taken while other programs held the cores
 * are too low: they are marked, and kept for five minutes only. */
#ifndef HARNESS_RATES_H
#define HARNESS_RATES_H

#include "harness/plan.h"
#include "kernels/gpu_list.h"

enum { RATES_KEY_BYTES = 8192 };

struct rates {
    struct device_rates rates;
    struct device_info info; /* variant[] points into names: copy with rates_copy_names */
    char names[OPS][NAME_LENGTH];
    bool measured;  /* false: from the cache */
    bool busy;      /* other programs held the cores meanwhile */
    char note[300]; /* why the cache could not be written, or "" */
};

/* From the cache, unless `anew`; on the CPU measured in a child process. Errors are
 * engine_measure's and isolated_run's. *out must not move afterwards (info points into it). */
enum status rates_get(struct rates *out, const struct engine_opts *opts,
                      const struct model_config *model, bool anew, struct error *err);

/* Everything that rates depend on, as text. `gpus` is read where the device is a GPU. */
void rates_key(const struct engine_opts *opts, const struct model_config *model,
               const struct gpu_list *gpus, char out[RATES_KEY_BYTES]);

/* As a JSON object and back; false: not all of it is there and sensible. For plan files too. */
struct jsondoc;
void rates_put(struct jsondoc *object, const struct device_rates *r, const struct device_info *i);
bool rates_take(const struct jsondoc *object, struct device_rates *r, struct device_info *i,
                char names[OPS][NAME_LENGTH]);
/* Without the device. */
void rates_put_numbers(struct jsondoc *object, const struct device_rates *r);
bool rates_take_numbers(const struct jsondoc *object, struct device_rates *r);

#endif
