/* SPDX-License-Identifier: Apache-2.0 */
/* cleanenv.c - takes variables that name code to load out of the environment.
 *
 * New releases bring new ones (NCCL_NET_PLUGIN, NCCL_TUNER_PLUGIN, NCCL_GIN_PLUGIN ...), so within
 * the families below a name is judged by its words, and those known to be harmless are listed. */
#include "cleanenv.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define NAME_MOST 256u

extern char **environ;

static const char *const families[] = {"NCCL_", "OMPI_", "OPAL_", "PMIX_", "PRTE_", "UCX_", "CUDA_",
                                       "NVTX_", "FI_", "HWLOC_", NULL};
/* Between underscores, in any case. */
static const char *const words[] = {"PLUGIN", "PLUGINS", "PATH", "LIB", "LIBRARY", "LIBDIR",
                                    "PKGLIBDIR", "BINDIR", "DESTDIR", "PREFIX", "FILE", "FILES",
                                    "CONF", "CONFIG", "AGENT", "INJECTION32", "INJECTION64", NULL};
static const char *const whole[] = {"UCX_MODULE_DIR", "UCX_MODULES", NULL};
/* What a launcher sets itself, and places of data. */
static const char *const harmless[] = {"CUDA_PATH", "CUDA_CACHE_PATH", "NCCL_TOPO_FILE",
                                       "NCCL_TOPO_DUMP_FILE", "NCCL_GRAPH_FILE",
                                       "NCCL_GRAPH_DUMP_FILE", "NCCL_DEBUG_FILE",
                                       "OMPI_FILE_LOCATION", "PMIX_DSTORE_21_BASE_PATH",
                                       "PMIX_DSTORE_ESH_BASE_PATH", NULL};

static bool is_in(const char *const *list, const char *name)
{
    for (; *list != NULL; list++)
        if (strcmp(*list, name) == 0)
            return true;
    return false;
}

static bool has_word(const char *name)
{
    for (const char *at = name; *at != 0;) {
        size_t n = strcspn(at, "_");
        for (size_t i = 0; words[i] != NULL; i++)
            if (strlen(words[i]) == n && strncasecmp(at, words[i], n) == 0)
                return true;
        at += n + (at[n] == '_');
    }
    return false;
}

bool tn_env_names_code(const char *name, const char *value)
{
    bool ours = false;
    for (size_t i = 0; families[i] != NULL; i++)
        ours = ours || strncmp(name, families[i], strlen(families[i])) == 0;
    if (!ours || is_in(harmless, name) || value[0] == 0 || strcmp(value, "none") == 0)
        return false;
    return is_in(whole, name) || has_word(name);
}

static bool is_kept(char *const *keep, uint32_t nkeep, const char *name)
{
    for (uint32_t i = 0; i < nkeep; i++)
        if (strcmp(keep[i], name) == 0)
            return true;
    return false;
}

void tn_env_clean(char *const *keep, uint32_t nkeep, tn_log *log)
{
    for (size_t i = 0; environ[i] != NULL;) {
        char name[NAME_MOST];
        const char *equals = strchr(environ[i], '=');
        size_t n = equals != NULL ? (size_t)(equals - environ[i]) : 0;
        if (n == 0 || n >= sizeof name) {
            i++;
            continue;
        }
        memcpy(name, environ[i], n);
        name[n] = 0;
        if (!tn_env_names_code(name, equals + 1) || is_kept(keep, nkeep, name) ||
            unsetenv(name) != 0) { /* what was taken out, the next has the place of */
            i++;
            continue;
        }
        tn_log_put(log, TN_LOG_WARN, "core", NULL, "environment: %.128s may name code to load: taken "
                   "out; [tenon] keep_environment = %.128s keeps it", name, name);
    }
}
