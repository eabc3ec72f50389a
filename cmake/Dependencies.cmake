# Everything comes from Debian packages; the launcher (./cohort) holds the table of their names.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS C)

pkg_check_modules(OPENBLAS REQUIRED IMPORTED_TARGET openblas)
pkg_check_modules(HDF5 REQUIRED IMPORTED_TARGET hdf5-serial)
pkg_check_modules(YAML REQUIRED IMPORTED_TARGET yaml-0.1)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(CRITERION IMPORTED_TARGET criterion)
# Without it a run has one process, and --processes says why.
pkg_check_modules(OPENMPI IMPORTED_TARGET ompi-c)

# Header-only libraries without a pkg-config file that could be asked for them.
include(CheckIncludeFile)
foreach(header Random123/philox.h xxhash.h)
  string(MAKE_C_IDENTIFIER "COHORT_HAVE_${header}" found)
  check_include_file(${header} ${found})
  if(NOT ${found})
    message(FATAL_ERROR "${header} not found (Debian: librandom123-dev, libxxhash-dev)")
  endif()
endforeach()
