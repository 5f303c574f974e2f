/* SPDX-License-Identifier: Apache-2.0 */
/* elffile.h - what a shared object says about itself, read from the file without loading it.
 *
 * dlopen runs a library's constructors, so everything that can be refused is refused from
 * the file: the wrong machine, no entry, an entry that can change, another ABI. Strings of
 * the entry are followed through the file's relocations. */
#ifndef TN_ELFFILE_H
#define TN_ELFFILE_H

#include <tenon/plugin.h>

#include <stdbool.h>

#define TN_ELF_SYMBOLS_MAX 4096u /* undefined or exported ones kept for reports */

typedef struct tn_elf {
    uint64_t dev, ino;         /* the file */
    uint64_t entry_size;       /* of the symbol */
    tn_plugin entry;           /* numbers as in the file, pointers NULL; what the file's author
                                  lacked is zero */
    char name[64];             /* the entry's name, "" when the file does not tell */
    uint32_t table_size;       /* first word of its table, 0 when the file does not tell */
    bool asan;                 /* wants the address sanitizer's runtime */
    char *run_path;            /* RPATH and RUNPATH, "" without; owned */
    char **undefined;          /* strong undefined symbols, owned */
    uint32_t nundefined;
    char **exported;           /* names it defines for others, owned */
    uint32_t nexported;
    char **needed;             /* libraries, owned */
    uint32_t nneeded;
} tn_elf;

/* TN_UNAVAILABLE: no ELF file of this machine, or no proper entry. TN_NOINPUT, TN_IO. */
tn_status tn_elf_open(const char *path, tn_elf *out, tn_err *err);
void tn_elf_close(tn_elf *e);

#endif
