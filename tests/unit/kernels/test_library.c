/* Shared libraries are found where pip lays them. */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "library.h"

static char folder[] = "/tmp/cohort-library-XXXXXX";

/* Some shared library that every machine has, under another name in one of pip's folders below `prefix`. */
static void lay_library(const char *prefix, const char *file) {
    char command[1024];
    Dl_info info;
    void *known = dlopen("libm.so.6", RTLD_NOW);
    cr_assert(known && dladdr(dlsym(known, "cos"), &info));
    snprintf(
        command, sizeof command,
        "d=%s/%s/lib/python3.12/site-packages/nvidia/cublas/lib && mkdir -p \"$d\" && cp -L %s \"$d\"/%s",
        folder, prefix, info.dli_fname, file);
    cr_assert_eq(system(command), 0);
}

static void clear(void) {
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    cr_assert_eq(system(command), 0);
}

static void make_folder(void) {
    cr_assert_not_null(mkdtemp(folder));
}

TestSuite(library, .init = make_folder, .fini = clear);

Test(library, lies_beside_a_python_on_the_path) {
    char path[256], message[512] = "";
    lay_library("python", "libcohort-a.so.1");
    snprintf(path, sizeof path, "/usr/games:%s/python/bin/", folder);
    setenv("PATH", "/usr/games", 1);
    setenv("HOME", folder, 1);
    cr_assert_null(ck_load_library("libcohort-a.so.1", NULL, message, sizeof message));
    cr_assert(strstr(message, "libcohort-a.so.1 was found neither by the loader"), "%s", message);
    setenv("PATH", path, 1);
    cr_assert_not_null(ck_load_library("libcohort-a.so.1", NULL, message, sizeof message));
}

Test(library, lies_with_the_users_own_packages) {
    char message[512];
    lay_library(".local", "libcohort-b.so.1");
    setenv("HOME", folder, 1);
    cr_assert_not_null(ck_load_library("libcohort-b.so.1", NULL, message, sizeof message));
}

Test(library, lies_where_it_was_when_this_was_built) {
    char message[512];
    cr_assert_not_null(ck_load_library("libcohort-c.so.1", "libm.so.6", message, sizeof message));
    cr_assert_null(ck_load_library("libcohort-c.so.1", "/nowhere/libcohort-c.so", message, sizeof message));
    cr_assert(strstr(message, ", nor at /nowhere/libcohort-c.so"), "%s", message);
}
