from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("billing", "0008_no_sums")]

    operations = [migrations.DeleteModel("OrganizationLimits")]
