/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_elf.c - any bytes as a shared object that somebody calls a plugin. */
#include "elffile.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    tn_elf e;
    tn_err err = {.text = ""};
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) {
        close(fd);
        return 0;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (tn_elf_open(path, &e, &err) == TN_OK)
        tn_elf_close(&e);
    else if (err.text[0] == 0)
        abort();
    close(fd);
    return 0;
}
