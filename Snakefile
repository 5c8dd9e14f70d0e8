"""PEL-Lab: a study -> runs -> tables and figures. The rules are in workflow/Snakefile, where other workflows look for them.

    snakemake --cores 1 --resources gpu=1                                  # the default study: report on the embedded demo
    snakemake --cores 8 --resources gpu=1 --config config=paper seeds=0,1  # another configuration, other seeds
"""

# Not `include:`, after which there would be no rule that is made by default.
workflow.include("workflow/Snakefile", overwrite_default_target=True)
