# The CUDA backend, where nvcc is. Every kernels/cuda file is compiled by a command of its own, not by CMake's CUDA support: what the
# assembler says of registers and spills is kept beside the object (FILE.log), where a test reads it.
find_program(COHORT_NVCC nvcc PATHS /usr/local/cuda/bin)
set(COHORT_CUDA_CODE "arch=compute_80,code=[sm_80,compute_80];arch=compute_90a,code=sm_90a" CACHE STRING
  "What nvcc generates code for: its -gencode arguments")
option(COHORT_CUDA_BACKEND "Build the CUDA backend if nvcc is found" ON)

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

file(GLOB CUDA_SOURCES CONFIGURE_DEPENDS kernels/cuda/*.cu kernels/cuda/gpu/*.cu)
set(CUDA_OUTPUT ${CMAKE_BINARY_DIR}/cuda)
file(MAKE_DIRECTORY ${CUDA_OUTPUT})
foreach(code IN LISTS COHORT_CUDA_CODE)
  list(APPEND CUDA_GENCODE -gencode "${code}")
endforeach()
foreach(source IN LISTS CUDA_SOURCES)
  get_filename_component(name ${source} NAME_WE)
  set(object ${CUDA_OUTPUT}/${name}.o)
  add_custom_command(OUTPUT ${object} DEPFILE ${object}.d DEPENDS ${source} VERBATIM
    COMMAND sh ${CMAKE_SOURCE_DIR}/cmake/nvcc.sh ${CUDA_OUTPUT}/${name}.log ${COHORT_NVCC} -std=c++17 -O3 ${CUDA_GENCODE}
      -I${CMAKE_SOURCE_DIR}/kernels -DCOHORT_CUBLASLT="${CUBLASLT}" -Xptxas -v -MD -MF ${object}.d -c ${source} -o ${object}
    COMMENT "nvcc ${name}.cu")
  list(APPEND CUDA_OBJECTS ${object})
endforeach()

add_library(cohort_cuda STATIC ${CUDA_OBJECTS})
set_target_properties(cohort_cuda PROPERTIES LINKER_LANGUAGE C)
target_link_libraries(cohort_cuda PUBLIC ${CUDART} stdc++ ${CMAKE_DL_LIBS} rt Threads::Threads)
