/* SPDX-License-Identifier: Apache-2.0 */
/* cleanenv.h - what the environment may not say to the libraries of plugins.
 *
 * Open MPI, NCCL, UCX and CUDA take the names of code to load from variables: whoever can set one
 * for a service would run in it. Those are taken out before plugins are loaded. */
#ifndef TN_CLEANENV_H
#define TN_CLEANENV_H

#include <stdbool.h>
#include <stdint.h>

#include "log.h"

/* Does a variable of this name and value name code to load, or a file that could? */
bool tn_env_names_code(const char *name, const char *value);
/* Takes such variables out, but for those in `keep`, and logs each. One thread runs. */
void tn_env_clean(char *const *keep, uint32_t nkeep, tn_log *log);

#endif
