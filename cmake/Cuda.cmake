# The CUDA backend, where nvcc is and a GPU, or where it is asked for. Every kernels/cuda file is compiled by a command of its own, not by
# CMake's CUDA support: what the assembler says of registers and spills is kept beside the object (FILE.log), where a test reads it.
#
# The objects of each set of architectures lie in a folder of their own (cuda/sm_90a, cuda/sm_80+sm_90a), so that none replaces another's.
find_program(COHORT_NVCC nvcc PATHS /usr/local/cuda/bin)
option(COHORT_CUDA_BACKEND "Look for nvcc" ON)
set(COHORT_CUDA_ARCHITECTURES native CACHE STRING
  "What the CUDA backend is compiled for: native (the GPUs of this machine), a list such as 80;90a, or nothing: no CUDA backend")

# Compiles for both kinds of GPU that the kernels are made for, and links a program, for tests: nothing needs a GPU.
add_custom_target(cuda-tested)

if(NOT COHORT_NVCC OR NOT COHORT_CUDA_BACKEND OR COHORT_SANITIZE) # the sanitizers' allocator and CUDA's want the same addresses
  message(STATUS "No CUDA backend: nvcc ${COHORT_NVCC}, COHORT_CUDA_BACKEND ${COHORT_CUDA_BACKEND}, COHORT_SANITIZE ${COHORT_SANITIZE}")
  return()
endif()
get_filename_component(CUDA_FOLDER ${COHORT_NVCC} REALPATH)
get_filename_component(CUDA_FOLDER ${CUDA_FOLDER} DIRECTORY)
get_filename_component(CUDA_FOLDER ${CUDA_FOLDER} DIRECTORY)
set(CUDA_LIBRARIES_IN ${CUDA_FOLDER}/lib64 ${CUDA_FOLDER}/targets/x86_64-linux/lib ${CUDA_FOLDER}/lib) # the last: as pip lays it
find_library(CUBLASLT NAMES cublasLt libcublasLt.so.13 HINTS ${CUDA_LIBRARIES_IN})
find_library(CUDART cudart_static HINTS ${CUDA_LIBRARIES_IN})
if(NOT CUBLASLT OR NOT CUDART)
  message(STATUS "No CUDA backend: ${COHORT_NVCC} comes without cuBLASLt")
  return()
endif()

# The code for 8.0 has PTX too, which drivers compile for later GPUs.
function(cuda_gencode architecture out)
  set(code sm_${architecture})
  if(architecture STREQUAL "80")
    set(code [sm_80,compute_80])
  endif()
  set(${out} -gencode "arch=compute_${architecture},code=${code}" PARENT_SCOPE)
endfunction()

# The library of all kernels for a list of architectures; one that is there already is not made again.
function(cuda_library out)
  list(TRANSFORM ARGN PREPEND sm_ OUTPUT_VARIABLE names)
  string(REPLACE ";" "+" folder "${names}")
  set(${out} cuda-${folder} PARENT_SCOPE)
  if(TARGET cuda-${folder})
    return()
  endif()
  set(output ${CMAKE_BINARY_DIR}/cuda/${folder})
  file(MAKE_DIRECTORY ${output})
  foreach(architecture IN LISTS ARGN)
    cuda_gencode(${architecture} code)
    list(APPEND gencode ${code})
  endforeach()
  file(GLOB sources CONFIGURE_DEPENDS kernels/cuda/*.cu kernels/cuda/gpu/*.cu)
  foreach(source IN LISTS sources)
    get_filename_component(name ${source} NAME_WE)
    set(object ${output}/${name}.o)
    add_custom_command(OUTPUT ${object} DEPFILE ${object}.d DEPENDS ${source} VERBATIM
      COMMAND sh ${CMAKE_SOURCE_DIR}/cmake/nvcc.sh ${output}/${name}.log ${COHORT_NVCC} -std=c++17 -O3 ${gencode}
        -I${CMAKE_SOURCE_DIR}/kernels -DCOHORT_CUBLASLT="${CUBLASLT}" -Xptxas -v -MD -MF ${object}.d -c ${source} -o ${object}
      COMMENT "nvcc ${name}.cu for ${folder}")
    list(APPEND objects ${object})
  endforeach()
  add_library(cuda-${folder} STATIC EXCLUDE_FROM_ALL ${objects})
  set_target_properties(cuda-${folder} PROPERTIES LINKER_LANGUAGE C ARCHIVE_OUTPUT_DIRECTORY ${output})
  target_link_libraries(cuda-${folder} PUBLIC ${CUDART} stdc++ ${CMAKE_DL_LIBS} rt Threads::Threads)
endfunction()

set(CUDA_ARCHITECTURES ${COHORT_CUDA_ARCHITECTURES})
if(CUDA_ARCHITECTURES STREQUAL "native")
  execute_process(COMMAND sh ${CMAKE_SOURCE_DIR}/cmake/gpus.sh ${COHORT_NVCC} OUTPUT_VARIABLE CUDA_ARCHITECTURES
    OUTPUT_STRIP_TRAILING_WHITESPACE)
  string(REPLACE "\n" ";" CUDA_ARCHITECTURES "${CUDA_ARCHITECTURES}")
endif()
if(CUDA_ARCHITECTURES)
  cuda_library(COHORT_CUDA_LIBRARY ${CUDA_ARCHITECTURES})
endif()
message(STATUS "CUDA backend for: ${CUDA_ARCHITECTURES} (COHORT_CUDA_ARCHITECTURES ${COHORT_CUDA_ARCHITECTURES})")

cuda_library(CUDA_TESTED_80 80)
cuda_library(CUDA_TESTED_90 90a)
add_dependencies(cuda-tested ${CUDA_TESTED_80} ${CUDA_TESTED_90})
