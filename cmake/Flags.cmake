# Flags of every target, as one interface library.
add_library(cohort_flags INTERFACE)
target_compile_options(cohort_flags INTERFACE
  -Wall -Wextra -Werror -Wshadow -Wpointer-arith $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes>
  # Faster arithmetic that changes no value a program can rely on. Never -ffast-math: NaN, Inf and the order of sums keep their meaning.
  -ffp-contract=fast -fno-math-errno -fno-trapping-math)
target_link_libraries(cohort_flags INTERFACE OpenMP::OpenMP_C)

if(CMAKE_C_COMPILER_ID STREQUAL Clang)
  # Says that a loop under `omp simd` stayed scalar: a remark about speed, no mistake.
  target_compile_options(cohort_flags INTERFACE -Wno-pass-failed)
endif()
target_compile_definitions(cohort_flags INTERFACE _GNU_SOURCE=1) # asprintf, renameat2, processor affinity

if(COHORT_NATIVE)
  target_compile_options(cohort_flags INTERFACE -march=native)
  # What runs before it is known what the CPU can do (kernels/instructions.h) is compiled for any of the architecture.
  if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
    set(COHORT_ANY_CPU -march=x86-64)
  endif()
endif()
if(COHORT_SANITIZE)
  set(sanitizers -fsanitize=address,undefined -fno-omit-frame-pointer)
  # gcc's data-flow warnings see paths through the sanitizers' code that do not exist: they do not count here.
  target_compile_options(cohort_flags INTERFACE ${sanitizers} -g -O1 -Wno-error)
  target_link_options(cohort_flags INTERFACE ${sanitizers})
endif()
